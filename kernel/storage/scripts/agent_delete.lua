#!lua flags=allow-oom
-- Ends an agent that still is as it was read, else answers 0. Its versions stay a while for executions that run on.
-- ARGV: ws, id, revision and status as read, seconds that versions stay, then field and value of the sets it is in.
local ws, id = ARGV[1], ARGV[2]
local agent = K.agent(ws, id)
local found = redis.call('HMGET', agent, 'revision', 'status')
if found[1] ~= ARGV[3] or found[2] ~= ARGV[4] then return 0 end
tell_agent(ws, 'agent.deleted', id)
redis.call('DEL', agent, K.agent_stats(ws, id), K.agent_history(ws, id))
redis.call('EXPIRE', K.agent_versions(ws, id), ARGV[5])
redis.call('ZREM', K.agents(ws), id)
redis.call('ZREM', K.agents_by(ws, 'status', ARGV[4]), id)
for i = 6, #ARGV, 2 do redis.call('ZREM', K.agents_by(ws, ARGV[i], ARGV[i + 1]), id) end
redis.call('INCR', K.agents_turn(ws))
use_credentials(ws, 'agent ' .. id, '')
return 1
