// The status page. Plain ES modules, no build step; every file here is served as it is.
//
//   store.js   what the page knows: `subscribe(kind, listener)`, `current(kind)`; kinds: status, plan, history, connection
//   live.js    the only module that reads `GET /status`: by events, else by polling; publishes `status` and `connection`
//   dom.js     changes the document in place: keyed lists, text, attributes. Never innerHTML: names are data
//   format.js  bytes, counts, durations and times as people read them
//   header.js  the first line, what is wrong, and the announcements for screen readers
//
// Sections subscribe to the store and patch the elements that templates/status.html has rendered. A row keeps its
// element (`data-key`) as long as what it stands for, so focus and selections survive updates. Addresses are relative:
// the page may be served below a path.
//
// To add to a model's row: its element [data-actions] has data-model and data-state, and stays when they change.

import { startHeader } from "./header.js";
import { startLive } from "./live.js";

startHeader();
startLive();
