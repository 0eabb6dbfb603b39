-- An agent with its current document. ARGV: ws, id.
local ws, id = ARGV[1], ARGV[2]
local agent = redis.call('HMGET', K.agent(ws, id), 'version', 'status', 'revision', 'item')
if not agent[1] then return false end
local stats = redis.call('HMGET', K.agent_stats(ws, id), 'executions', 'completed', 'failed', 'timed_out')
return {agent[2], agent[4], stats, agent[3], redis.call('HGET', K.agent_versions(ws, id), agent[1])}
