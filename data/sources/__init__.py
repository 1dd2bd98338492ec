"""One file a data set (or family of them), each with ``load(request) -> Source``."""
