"""Where rows live: the only part that speaks to PostgreSQL; named SQL in sql/, one module a table family."""
