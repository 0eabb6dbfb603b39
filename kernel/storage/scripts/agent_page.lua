-- A page of list items, newest first.
-- ARGV: ws, before, offset, limit, how many ids to choose from (-1: all), those ids, newest first,
--       then field and value by turns of the sets that an agent must be in.
local ws, before, offset, limit, choice = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local sets = {K.agents(ws)}
for i = 6 + math.max(choice, 0), #ARGV, 2 do sets[#sets + 1] = K.agents_by(ws, ARGV[i], ARGV[i + 1]) end

local function chosen(id)
  for _, set in ipairs(sets) do
    if not redis.call('ZSCORE', set, id) then return false end
  end
  return true
end

local function page_of_choice()
  local ids, total, skip = {}, 0, offset
  for i = 6, 5 + choice do
    if chosen(ARGV[i]) then
      total = total + 1
      if before == '' or ARGV[i] < before then
        if skip == 0 and #ids <= limit then ids[#ids + 1] = ARGV[i] end
        skip = math.max(skip - 1, 0)
      end
    end
  end
  return ids, total
end

local ids, total
if choice >= 0 then
  ids, total = page_of_choice()
else
  if #sets > 1 then table.remove(sets, 1) end
  ids, total = page(sets, '-', '+', before, offset, limit)
end
local out = {total}
for _, id in ipairs(ids) do
  local agent = redis.call('HMGET', K.agent(ws, id), 'status', 'item')
  local stats = redis.call('HMGET', K.agent_stats(ws, id), 'executions', 'completed', 'failed', 'timed_out')
  out[#out + 1] = {agent[1], agent[2], stats}
end
return out
