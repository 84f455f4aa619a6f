"""The pages, one a module; each has `show`, which draws it."""
