"""How far two colors stand apart for a reader: WCAG 2.2, 1.4.3 and 1.4.11."""


def contrast(one, other):
    """Ratio of the luminances of two colors of sRGB, each three values from 0 to 255; from 1 to 21."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color):
    shares = (value / 255 for value in color)
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
