-- Adds an entry to a workspace's audit log. ARGV: workspace, entry.
note_audit(ARGV[1], ARGV[2])
