"""eed-search finds compact, adversarially robust, fast image classifiers automatically."""

__version__ = "0.1.0"
