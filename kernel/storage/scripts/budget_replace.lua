-- Replaces all budgets of a workspace, and tells of those whose spend so far is at a threshold already.
-- ARGV: ws, now, the mark they must still have ('' any), audit entry, then `<d|m>|<w|a|k>|<id>` and JSON by turns
-- Answer: `changed`; or `unknown` and the places of those whose agent or key there is not; or `ok` and all budgets
local ws, now, mark = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local day, budgets, unknown = utc_day(now), {}, {}
if mark ~= '' and budget_rows(ws, day) ~= mark then return {'changed'} end

local function is_known(kind, id)
  if kind == 'a' then return redis.call('EXISTS', K.agent(ws, id)) == 1 end
  return kind == 'w' or redis.call('ZSCORE', K.workspace_keys(ws), id)
end
for i = 5, #ARGV, 2 do
  local budget = open_budget(ws, ARGV[i], ARGV[i + 1], day)
  budgets[#budgets + 1] = budget
  if not is_known(budget.kind, budget.id) then unknown[#unknown + 1] = #budgets - 1 end
end
if #unknown > 0 then return {'unknown', unknown} end

redis.call('DEL', K.budgets(ws))
note_audit(ws, ARGV[4])
if #budgets > 0 then redis.call('HSET', K.budgets(ws), unpack(ARGV, 5)) end
for _, budget in ipairs(budgets) do tell_budget(ws, budget, now) end
return {'ok', budget_rows(ws, day)}
