"""From a checkpoint and a picture to a `Prediction`: the one way."""
