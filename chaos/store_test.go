package main

import "testing"

// A store refuses a writer after it has seen a higher token. It refuses a
// reader after it has seen a higher token of a writer.
func TestStore(t *testing.T) {
	s := newStore(1)
	var v Values
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	refused := func(err error) {
		t.Helper()
		if err != errStale {
			t.Errorf("error %v, want %v", err, errStale)
		}
	}
	must(s.Get(Access{Token: 5}, &v))
	must(s.Get(Access{Token: 7}, &v))
	refused(s.SetFenced(Access{Token: 5, Value: 1}, nil))
	must(s.SetFenced(Access{Token: 7, Value: 1}, nil))
	must(s.Get(Access{Token: 9, Read: true}, &v))
	must(s.Get(Access{Token: 8, Read: true}, &v)) // readers hold together
	refused(s.SetFenced(Access{Token: 8, Value: 2}, nil))
	refused(s.Get(Access{Token: 6, Read: true}, &v))
	must(s.SetPlain(Access{Token: 5, Value: 1}, nil))
	must(s.SetPlain(Access{Token: 7, Value: 1}, nil))
	if fenced, plain, stale := s.lost(); fenced != 0 || plain != 1 || stale != 3 || v.Fenced != 1 {
		t.Errorf("lost %d fenced and %d plain, %d refused, the value is %d; want 0, 1, 3, 1",
			fenced, plain, stale, v.Fenced)
	}
}
