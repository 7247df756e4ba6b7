-- Reads the receipt of a redemption.
-- KEYS
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call_id                    the call id: every reply begins with it
-- Status
--   receipts                   the receipt
--   redemption_missing         1: there is no such receipt
local call_id = ARGV[1]
local receipt = redis.call('GET', KEYS[1])
if not receipt then
  return {call_id, 'redemption_missing', 1}
end
return {call_id, 'receipts', receipt}
