"""What a run will need, take and cost, before it is submitted. Without torch: a child process has it."""
