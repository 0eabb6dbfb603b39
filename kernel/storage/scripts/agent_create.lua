-- A new agent with its first version and its place in every set.
-- ARGV: ws, id, version, item, document, history entry, idempotency record ('' none), credentials it uses,
--       then field and value by turns.
local ws, id, version = ARGV[1], ARGV[2], ARGV[3]
local agent = K.agent(ws, id)
if redis.call('EXISTS', agent) == 1 then return 'there' end
if not has_credentials(ws, ARGV[8]) then return 'credential' end
if not owns_key(ARGV[7], id) then return 'superseded' end
redis.call('HSET', agent, 'version', version, 'status', 'active', 'revision', 1, 'item', ARGV[4])
redis.call('HSET', K.agent_versions(ws, id), version, ARGV[5])
redis.call('LPUSH', K.agent_history(ws, id), ARGV[6])
redis.call('ZADD', K.agents(ws), 0, id)
redis.call('ZADD', K.agents_by(ws, 'status', 'active'), 0, id)
for i = 9, #ARGV, 2 do redis.call('ZADD', K.agents_by(ws, ARGV[i], ARGV[i + 1]), 0, id) end
use_credentials(ws, 'agent ' .. id, ARGV[8])
redis.call('INCR', K.agents_turn(ws))
tell_agent(ws, 'agent.created', id)
