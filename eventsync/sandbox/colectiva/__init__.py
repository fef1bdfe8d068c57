"""The pretend Colectiva: apps register their organizations there, and it tells them of money on its way."""
