"""slicewise: brain MRI slices - is there a tumor, and where? Research software, not a medical device."""

__version__ = "0.1.0"
