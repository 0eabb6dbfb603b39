-- A new key of a workspace. ARGV: workspace, key id, hash, record, the most keys there may be, audit. Answers 0 when there
-- are as many.
if is_full_of_keys(ARGV[1], ARGV[5]) then return 0 end
keep_key(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
note_audit(ARGV[1], ARGV[6])
return 1
