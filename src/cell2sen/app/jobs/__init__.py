"""Jobs of the page: a queue, and work on selected cells with a model."""
