-- Changes an agent that still is as it was read, else answers 0.
-- ARGV: ws, id, revision and status as read, new status, version, item, document ('' keeps the version), history entry,
--       credentials it uses ('-' as before), how many sets it leaves, then field and value of those, then of the sets it joins.
local ws, id, revision, was, status, version = unpack(ARGV, 1, 6)
local agent = K.agent(ws, id)
local found = redis.call('HMGET', agent, 'revision', 'status')
if found[1] ~= revision or found[2] ~= was then return 0 end
if not has_credentials(ws, ARGV[10]) then return 'credential' end
local join = 12 + 2 * tonumber(ARGV[11])
for i = join, #ARGV, 2 do redis.call('ZADD', K.agents_by(ws, ARGV[i], ARGV[i + 1]), 0, id) end
for i = 12, join - 1, 2 do redis.call('ZREM', K.agents_by(ws, ARGV[i], ARGV[i + 1]), id) end
redis.call('HSET', agent, 'version', version, 'item', ARGV[7])
redis.call('HINCRBY', agent, 'revision', 1)
if ARGV[8] ~= '' then
  redis.call('HSET', K.agent_versions(ws, id), version, ARGV[8])
  redis.call('LPUSH', K.agent_history(ws, id), ARGV[9])
end
if ARGV[8] ~= '' or status ~= was then redis.call('HDEL', K.agent_stats(ws, id), 'streak') end
set_agent_status(ws, id, status)
use_credentials(ws, 'agent ' .. id, ARGV[10])
redis.call('INCR', K.agents_turn(ws))
tell_agent(ws, 'agent.updated', id)
return 1
