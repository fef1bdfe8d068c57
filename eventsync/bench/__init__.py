"""The verified benchmark: sends webhooks to real processes, then looks for every one of them in the database."""
