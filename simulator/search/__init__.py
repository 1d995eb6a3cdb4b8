"""Which configurations, how much each can carry, and how they rank."""
