#!lua flags=allow-oom
-- Ends a key of a workspace at once. ARGV: workspace, key id, record as read ('' any), audit.
local found = redis.call('HMGET', K.key(ARGV[2]), 'workspace', 'record')
if found[1] ~= ARGV[1] or (ARGV[3] ~= '' and found[2] ~= ARGV[3]) then return 0 end
end_key(ARGV[1], ARGV[2])
note_audit(ARGV[1], ARGV[4])
return 1
