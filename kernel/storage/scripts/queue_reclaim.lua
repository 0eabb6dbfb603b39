#!lua flags=allow-oom
-- Takes executions back from runners whose lease has ended, and fails those that too many runners have lost.
-- ARGV: now (0 is the server's), most deliveries, error as JSON, event as JSON
local now, most, problem, event = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
if now == 0 then now = server_now() end
local taken, dead = 0, 0

for _, runner in ipairs(redis.call('ZRANGEBYSCORE', K.leases(), '-inf', now)) do
  for _, member in ipairs(redis.call('SMEMBERS', K.held(runner))) do
    local ws, id = string.match(member, '^(%S+) (%S+)$')
    local came_to = take_back(ws, id, runner, now, most, problem, event)
    if came_to == 'queued' then taken = taken + 1 elseif came_to == 'failed' then dead = dead + 1 end
  end
  redis.call('DEL', K.held(runner))
  redis.call('ZREM', K.leases(), runner)
end
if redis.call('EXISTS', K.ring()) == 1 then wake() end
return {taken, dead}
