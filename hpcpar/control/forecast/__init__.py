"""What a run will need, take and cost, before it is submitted. Never imports torch: shapes come from a child process."""
