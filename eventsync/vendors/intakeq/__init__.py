"""IntakeQ (PracticeQ), a practice management system that pushes webhooks: its client and mapping in one folder."""
