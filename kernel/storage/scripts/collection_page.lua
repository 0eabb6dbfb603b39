-- A page of collections, newest first.
-- ARGV: ws, before, offset, limit, how many ids to choose from (-1: all), those ids, newest first
-- Answer: total, then of up to limit + 1 collections: id, then as `collection_row` has them.
local ws, before, offset, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function of_choice()
  local ids, total = {}, 0
  for i = 6, #ARGV do
    if redis.call('ZSCORE', K.collections(ws), ARGV[i]) then
      total = total + 1
      local follows = before == '' or ARGV[i] < before
      if follows and offset > 0 then offset = offset - 1
      elseif follows and #ids <= limit then ids[#ids + 1] = ARGV[i] end
    end
  end
  return ids, total
end

local ids, total
if ARGV[5] == '-1' then ids, total = page({K.collections(ws)}, '-', '+', before, offset, limit)
else ids, total = of_choice() end
local out = {total}
for _, id in ipairs(ids) do
  local row = collection_row(ws, id)
  table.insert(row, 1, id)
  out[#out + 1] = row
end
return out
