import pickle

import slicewise.errors as module
from slicewise.errors import LabelError, SlicewiseError


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, path = {}, {}
    for line in module.__doc__.splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not (name == "SlicewiseError" or "──" in line):
            continue
        depth = line.index(name)
        path = {column: above for column, above in path.items() if column < depth} | {depth: name}
        drawn[name] = [path[column] for column in sorted(path)][:-1]
    real = {}
    for name in module.__all__:
        ancestors = [one.__name__ for one in getattr(module, name).__mro__ if issubclass(one, SlicewiseError)]
        real[name] = ancestors[:0:-1]
    assert drawn == real


def test_every_error_is_exported():
    defined = {
        name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    }
    assert defined == set(module.__all__)


def test_an_error_comes_back_whole_from_a_worker_process():
    error = LabelError("too small", "mask-size", module.Path("mask.png"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problem, again.file) == (str(error), error.problem, error.file)
