#!lua flags=no-writes
-- A page of credentials, newest first. ARGV: ws, before, offset, limit, part of the name in lower case ('' any), then field
-- and value by turns of the sets they must be in
-- Answer: total, then of up to limit + 1: id, item, revision, version.
local ws, before, offset, limit, part = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local sets = {}
for i = 6, #ARGV, 2 do sets[#sets + 1] = K.credentials_by(ws, ARGV[i], ARGV[i + 1]) end

local function named()
  local found, ids, names = {}, {}, redis.call('HGETALL', K.credential_names(ws))
  for i = 1, #names, 2 do
    if string.find(names[i], part, 1, true) and in_all(sets, names[i + 1]) then found[#found + 1] = names[i + 1] end
  end
  table.sort(found, function(a, b) return a > b end)
  for _, id in ipairs(found) do
    if before == '' or id < before then ids[#ids + 1] = id end
  end
  return {unpack(ids, offset + 1, math.min(#ids, offset + limit + 1))}, #found
end

if #sets == 0 then sets[1] = K.credentials(ws) end
local ids, total
if part ~= '' then ids, total = named() else ids, total = page(sets, '-', '+', before, offset, limit) end
local out = {total}
for _, id in ipairs(ids) do
  out[#out + 1] = {id, unpack(redis.call('HMGET', K.credential(ws, id), 'item', 'revision', 'version'))}
end
return out
