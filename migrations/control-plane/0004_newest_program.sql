-- The newest version of the program that has brought this schema up to date: a program more than one minor version older refuses it.
ALTER TABLE program ADD COLUMN newest_version integer[] CHECK (array_length(newest_version, 1) = 3);
