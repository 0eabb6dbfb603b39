-- A page of list items, newest first.
-- ARGV: ws, low, high (lexical bounds), before, offset, limit, then field and value by turns (none: all)
local ws, low, high, before, offset, limit = unpack(ARGV, 1, 6)
local sets = {}
for i = 7, #ARGV, 2 do sets[#sets + 1] = K.executions_by(ws, ARGV[i], ARGV[i + 1]) end
if #sets == 0 then sets = {K.executions(ws)} end
local ids, total = page(sets, low, high, before, tonumber(offset), tonumber(limit))
local out = {total}
for _, id in ipairs(ids) do
  out[#out + 1] = {id, unpack(redis.call('HMGET', K.execution(ws, id), 'agent', 'status', 'phase', 'created_at',
    'started_at', 'completed_at', 'labels', 'tokens_used', 'cost', 'spent'))}
end
return out
