"""What positions cost and are worth: lots, realised and unrealised P&L."""
