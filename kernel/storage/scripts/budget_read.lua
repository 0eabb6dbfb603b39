#!lua flags=no-writes
-- A workspace's budgets, as `budget_rows` gives them. ARGV: ws, now
return {budget_rows(ARGV[1], utc_day(tonumber(ARGV[2])))}
