-- Creates a voucher, or changes the limits of one that exists. It keeps locked, and used unless the call sets it.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: begins the reply; on a retry, shows that an earlier try has written; also
--                    the life of a new voucher
--   if_exists        'update', 'keep': change nothing, or 'raise': refuse
--   quantity         limit; -1 is without limit
--   credits          limit
--   points           limit
--   used             'keep', or 'set': to the three values that follow
--   used_quantity
--   used_credits
--   used_points
-- Status
--   again            some expired locks were reclaimed, and more are left: call again
--   exists           1: there is such a voucher, and if_exists is 'raise'
--   put              1 if this call has created the voucher, else 0; limits, used, locked (quantity, credits, points
--                    each)
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, if_exists, used = ARGV[1], ARGV[2], ARGV[6]
local again = false

local text = redis.call('GET', book_key)
-- include: open
local is_new = not book
if is_new then
  book = {call_id, tombstone_call_ids, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ''}
end
-- include: clock
-- include: reclaim
if again then
  return {call_id, 'again'}
end

local repeated = string.find(book[CALL_IDS], call_id, 1, true)
if not is_new and not repeated and if_exists == 'raise' then
  return {call_id, 'exists', 1}
end
if is_new or not repeated and if_exists == 'update' then
  book[CALL_IDS] = string.sub(book[CALL_IDS], -REMEMBERED) .. ' ' .. call_id
  book[QUANTITY_LIMIT], book[CREDITS_LIMIT], book[POINTS_LIMIT] = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
  if used == 'set' then
    book[QUANTITY_USED], book[CREDITS_USED], book[POINTS_USED] = ARGV[7] + 0, ARGV[8] + 0, ARGV[9] + 0
  end
  -- A retry whose voucher has been deleted since gets the first result again, and writes nothing.
  if not repeated then
    -- include: save
    if is_new then
      -- An index without a book was not written for this voucher: its locks must not be taken out of these totals.
      redis.call('UNLINK', locks_key)
    end
  end
end
return {call_id, 'put', book[LIFE] == call_id and 1 or 0, unpack(book, QUANTITY_LIMIT, POINTS_LOCKED)}
