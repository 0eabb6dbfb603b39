#!lua flags=allow-oom
-- Gives a shard up; what was in flight is due again. ARGV: name, now
if redis.call('GET', K.courier()) ~= ARGV[1] then return 0 end
ground(ARGV[2])
redis.call('DEL', K.courier())
return 1
