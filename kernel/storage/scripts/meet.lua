#!lua flags=no-writes
-- A stretch of the ids that stand in several sets at once, newest first: so few are looked at that nobody waits long.
-- ARGV: ws, kind (executions or audit), low, high (lexical bounds), id to begin after or '', most to look at, then field
-- and value by turns
-- Answer: id to go on after ('' at the end), then the ids
local ws, kind, low, high, before, most = unpack(ARGV, 1, 6)
local sets, out = {}, {''}
for i = 7, #ARGV, 2 do
  local set = kind == 'audit' and K.audit_by(ws, ARGV[i], ARGV[i + 1]) or K.executions_by(ws, ARGV[i], ARGV[i + 1])
  sets[#sets + 1] = set
end
smallest_first(sets)
local top = before ~= '' and '(' .. before or high
local looked = redis.call('ZREVRANGEBYLEX', sets[1], top, low, 'LIMIT', 0, most)
for _, id in ipairs(looked) do
  if in_all(sets, id) then out[#out + 1] = id end
end
if #looked == tonumber(most) then out[1] = looked[#looked] end
return out
