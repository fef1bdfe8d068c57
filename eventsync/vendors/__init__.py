"""Who we talk to: one folder a vendor, each found by itself, so that adding a vendor is copying a folder."""
