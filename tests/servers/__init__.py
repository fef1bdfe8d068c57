"""Real servers of the tests' own, and what disturbs them."""
