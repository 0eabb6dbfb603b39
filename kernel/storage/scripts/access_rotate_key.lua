-- A successor of a key, which ends now or gets a record with its end. ARGV: workspace, key id, its record as read ('' it
-- is gone), its new record ('' ends it), successor id, hash, record, a successor whose secret was lost ('' none), the most
-- keys there may be, audit. Answers ok | moved (the record is another by now) | full.
local ws, id, was, left, new, hash, record, lost, most, audit = unpack(ARGV)

-- The successor goes on with the key's budgets of one period, and with what was spent and told of them so far.
local function carry_on(from, length, day)
  local old, field = length .. '|k|' .. from, length .. '|k|' .. new
  local period = length == 'd' and day or string.sub(day, 1, 7)
  local spend, text = K.spend(ws, period), redis.call('HGET', K.budgets(ws), old)
  for _, count in ipairs({'c|k|', 'y|k|'}) do
    local spent = redis.call('HGET', spend, count .. from)
    if spent then redis.call('HSET', spend, count .. new, spent) end
  end
  if not text then return end
  redis.call('HSET', K.budgets(ws), field, text)
  local before, budget = open_budget(ws, old, text, day), open_budget(ws, field, text, day)
  for _, threshold in ipairs(budget.alerts) do
    local told = redis.call('HGET', K.alerts(ws, period), alert_field(before, threshold))
    if told then redis.call('HSET', K.alerts(ws, period), alert_field(budget, threshold), told) end
  end
end

if (redis.call('HGET', K.key(id), 'record') or '') ~= was then return 'moved' end
if left ~= '' and lost == '' and is_full_of_keys(ws, most) then return 'full' end
local day = utc_day(decoded(record).created_at)
for _, length in ipairs({'d', 'm'}) do carry_on(was ~= '' and id or lost, length, day) end
if left ~= '' then
  redis.call('HSET', K.key(id), 'record', left)
  access_changed(id)
elseif was ~= '' then
  end_key(ws, id)
end
if lost ~= '' then end_key(ws, lost) end
keep_key(ws, new, hash, record)
note_audit(ws, audit)
return 'ok'
