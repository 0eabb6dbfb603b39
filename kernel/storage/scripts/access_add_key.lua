-- A new key of a workspace. ARGV: workspace, key id, hash, record, audit.
keep_key(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
note_audit(ARGV[1], ARGV[5])
