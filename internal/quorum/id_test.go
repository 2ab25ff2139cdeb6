package quorum

import "testing"

// An ID that has ended asks for nothing, but gives back what it was granted.
func TestEndedIDsAskForNothing(t *testing.T) {
	s := &server{}
	q := &Quorum{ids: make(map[string]*id), servers: []*server{s}}
	x := q.begin("a:1")
	q.end("a:1")
	if q.enter(x, s) || q.enterSoon(x, s, nil) {
		t.Error("an ID that has ended asks")
	}
	if !q.enterToGive(x, s) {
		t.Error("an ID that has ended gives nothing back")
	}
	if q.leave("a:1", x, s) != ended || len(q.ids) != 0 {
		t.Error("the ID is not forgotten")
	}
}

// A release ends after those before it.
func TestReleasesEndInTheirOrder(t *testing.T) {
	q := &Quorum{servers: []*server{{}}}
	l := &Lock{Quorum: q, releases: make([]*ending, 1)}
	first, second := l.beginRelease()[0], l.beginRelease()[0]
	second.end()
	if l.awaitRelease(q.servers[0], closed()) {
		t.Error("a request overtakes a release")
	}
	first.end()
	if !l.awaitRelease(q.servers[0], nil) {
		t.Error("the releases do not end")
	}
}

// closed returns a channel that is closed.
func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
