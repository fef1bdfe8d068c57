"""Other people's systems that eventsync is measured against: how they are installed, set up, fed and watched."""
