"""Tables: records side by side, beside what was published."""
