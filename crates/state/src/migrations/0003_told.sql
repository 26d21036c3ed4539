-- What was told since an instant is read whenever an engine starts, whatever became of it.
CREATE INDEX outbox_told ON outbox (at, id);
