"""What people and programs read: text, JSON and the HTML report."""
