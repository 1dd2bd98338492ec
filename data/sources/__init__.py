"""One file a data set (or family of them), each with ``load(name, root, options) -> Source``."""
