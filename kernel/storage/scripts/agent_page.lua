-- A page of list items, newest first.
-- ARGV: ws, before, offset, limit, turn and total as last counted (turn '' never), how many ids to choose from
--       (-1: all), those ids, newest first, then field and value by turns of the sets that an agent must be in.
-- Answer: turn, total, then status, item and stats of up to limit + 1 agents.
local ws, before, offset, limit, choice = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
local turn = redis.call('GET', K.agents_turn(ws)) or '0'
local first = 8 + math.max(choice, 0)
local sets, others = {}, {}
for i = first, #ARGV, 2 do
  if ARGV[i] == 'status' then
    for _, status in ipairs({'active', 'inactive', 'error'}) do
      if status ~= ARGV[i + 1] then others[#others + 1] = K.agents_by(ws, 'status', status) end
    end
  end
  sets[#sets + 1] = K.agents_by(ws, ARGV[i], ARGV[i + 1])
end
if #sets == 0 then sets[1] = K.agents(ws) end

local function slice(ids)
  local found, skip = {}, offset
  for _, id in ipairs(ids) do
    if before == '' or id < before then
      if skip == 0 and #found <= limit then found[#found + 1] = id end
      skip = math.max(skip - 1, 0)
    end
  end
  return found
end

local function reversed(ids)
  local turned = {}
  for i = #ids, 1, -1 do turned[#turned + 1] = ids[i] end
  return turned
end

-- Most agents share one status: those of the others are then fewer to count, and are taken away.
local function count()
  local apart, fewest = 0, redis.call('ZCARD', sets[1])
  for _, set in ipairs(others) do apart = apart + redis.call('ZCARD', set) end
  if #others == 0 or apart * 2 > fewest then return redis.call('ZINTERCARD', #sets, unpack(sets)) end
  local rest = {}
  for i = first, #ARGV, 2 do
    if ARGV[i] ~= 'status' then rest[#rest + 1] = K.agents_by(ws, ARGV[i], ARGV[i + 1]) end
  end
  local total = #rest == 1 and redis.call('ZCARD', rest[1]) or redis.call('ZINTERCARD', #rest, unpack(rest))
  for _, set in ipairs(others) do
    rest[#rest + 1] = set
    total = total - redis.call('ZINTERCARD', #rest, unpack(rest))
    table.remove(rest)
  end
  return total
end

local function of_several()
  smallest_first(sets)
  local total = turn == ARGV[5] and tonumber(ARGV[6]) or count()
  if total == 0 then return {}, 0 end
  if total <= 500 then return slice(reversed(redis.call('ZINTER', #sets, unpack(sets)))), total end
  return walk(sets, before == '' and '+' or '(' .. before, '-', offset, limit), total
end

local function of_choice()
  local ids = {}
  for i = 8, 7 + choice do
    if redis.call('ZSCORE', K.agents(ws), ARGV[i]) and in_all(sets, ARGV[i]) then ids[#ids + 1] = ARGV[i] end
  end
  return slice(ids), #ids
end

local ids, total
if choice >= 0 then ids, total = of_choice()
elseif #sets > 1 then ids, total = of_several()
else ids, total = page(sets, '-', '+', before, offset, limit) end
local out = {turn, total}
for _, id in ipairs(ids) do
  local agent = redis.call('HMGET', K.agent(ws, id), 'status', 'item')
  local stats = redis.call('HMGET', K.agent_stats(ws, id), 'executions', 'completed', 'failed', 'timed_out')
  out[#out + 1] = {agent[1], agent[2], stats}
end
return out
