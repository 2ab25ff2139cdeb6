// A stream of server-sent events, which connects again when it breaks.

const silence = 30_000; // in ms; the server sends something each 10 s
const shortestPause = 1_000;
const longestPause = 15_000;

// A Live reads the stream at url while the page is seen and not paused.
//
// It calls on.hello(data) after each connect, on.news(data) with each message, and
// on.state(name, problem) when that changes: "live", "paused" or "lost".
export class Live {
	#url;
	#on;
	#paused = false;
	#stream = null; // the AbortController of the stream; null: there is none
	#again = 0; // the timer of the next try
	#pause = shortestPause;

	constructor(url, on) {
		this.#url = url;
		this.#on = on;
		document.addEventListener("visibilitychange", () => this.#update());
		addEventListener("online", () => this.#update());
		this.#update();
	}

	set paused(paused) {
		this.#paused = paused;
		this.#pause = shortestPause;
		if (paused) {
			this.#on.state("paused", "");
		}
		this.#update();
	}

	// update opens or closes the stream.
	#update() {
		clearTimeout(this.#again);
		const wanted = !this.#paused && !document.hidden;
		if (wanted && !this.#stream) {
			this.#read();
		} else if (!wanted && this.#stream) {
			this.#stream.abort();
			this.#stream = null;
		}
	}

	async #read() {
		const stream = new AbortController();
		this.#stream = stream;
		let problem = "";
		try {
			problem = await this.#events(stream);
		} catch {
			// The server cannot be reached, or the stream broke.
		}
		if (this.#stream !== stream) {
			return; // it was closed on purpose
		}
		this.#stream = null;
		this.#on.state("lost", problem);
		const pause = this.#pause * (0.75 + Math.random() / 2);
		this.#pause = Math.min(2 * this.#pause, longestPause);
		this.#again = setTimeout(() => this.#update(), pause);
	}

	// events hands on the events of one connection. It returns the server's problem
	// if the server refuses, and "" when the stream ends.
	async #events(stream) {
		const timer = new Watchdog(silence, () => stream.abort());
		try {
			const answer = await fetch(this.#url, { signal: stream.signal, cache: "no-store" });
			if (answer.status === 401) {
				location.reload(); // to the form of the token
				return "";
			}
			if (!answer.ok) {
				return (await answer.text()).trim();
			}
			let text = "";
			const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
			for (;;) {
				const { value, done } = await reader.read();
				if (done) {
					return "";
				}
				timer.restart();
				const events = (text + value).split("\n\n");
				text = events.pop();
				if (this.#stream === stream) {
					events.forEach((event) => this.#event(event));
				}
			}
		} finally {
			timer.stop();
		}
	}

	#event(event) {
		const [, kind, data] = /^event: (\w+)\ndata: (.*)$/.exec(event) ?? [];
		switch (kind) {
		case "hello":
			this.#pause = shortestPause;
			this.#on.hello(JSON.parse(data));
			this.#on.state("live", "");
			break;
		case "news":
			this.#on.news(JSON.parse(data));
			break;
		}
	}
}

// A Watchdog calls bark unless it is restarted or stopped in time.
class Watchdog {
	#time;
	#bark;
	#timer;

	constructor(time, bark) {
		this.#time = time;
		this.#bark = bark;
		this.restart();
	}

	restart() {
		this.stop();
		this.#timer = setTimeout(this.#bark, this.#time);
	}

	stop() {
		clearTimeout(this.#timer);
	}
}
