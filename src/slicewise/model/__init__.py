"""The network, and the checkpoint from which alone it is rebuilt."""
