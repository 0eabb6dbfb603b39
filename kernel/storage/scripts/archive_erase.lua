#!lua flags=allow-oom
-- Hides an archived execution for good, takes it out of the archive's counts and notes what it had counted; once.
-- ARGV: ws, id, moment it ended, what it used as JSON, then the names of the counts it stands in
local ws, id = ARGV[1], ARGV[2]
if redis.call('SADD', K.erased(ws), id) == 0 then return end
note_removed(ws, ARGV[3], ARGV[4])
for i = 5, #ARGV do redis.call('HINCRBY', K.archived(ws), ARGV[i], -1) end
