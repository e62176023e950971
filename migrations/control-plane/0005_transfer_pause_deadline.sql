-- Transfers that an operator holds, and those that have a deadline. `state` goes on saying what the ends do, so that the previous version
-- reads every transfer: one with a `pause_time` that has not ended is PAUSED.
ALTER TABLE transfers ADD COLUMN deadline timestamptz;
ALTER TABLE transfers ADD COLUMN pause_time timestamptz;
ALTER TABLE transfers ADD COLUMN paused_by text NOT NULL DEFAULT '';
ALTER TABLE transfers ADD COLUMN pause_reason text NOT NULL DEFAULT '';
CREATE INDEX transfers_by_deadline ON transfers (deadline) WHERE end_time IS NULL AND deadline IS NOT NULL;
