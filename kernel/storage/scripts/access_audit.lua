#!lua flags=no-writes
-- A page of a workspace's audit log, newest first. ARGV: workspace, lowest and highest bound (lexical), id to begin after
-- or '', offset, limit, then field and value of each filter. Answer: total, then entries: one more than the page, if any.
local ws, low, high, before, offset, limit = unpack(ARGV)
local sets = {}
for i = 7, #ARGV, 2 do sets[#sets + 1] = K.audit_by(ws, ARGV[i], ARGV[i + 1]) end
local whole = #sets == 0
if whole then sets[1] = K.audit(ws) end
local found, total = page(sets, low, high, before, tonumber(offset), tonumber(limit))
local answer = {total}
for _, id in ipairs(found) do
  if not whole then id = redis.call('ZRANGEBYLEX', K.audit(ws), '[' .. id .. ' ', '(' .. id .. '!', 'LIMIT', 0, 1)[1] end
  answer[#answer + 1] = id
end
return answer
