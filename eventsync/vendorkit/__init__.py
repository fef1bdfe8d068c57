"""What vendors share: HTTP with the vendors' failures told apart, budgets, signatures, and what a vendor is."""
