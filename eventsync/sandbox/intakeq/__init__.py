"""A pretend IntakeQ practice: records, what happens to them, their wire forms, the API. Pure but for `api`."""
