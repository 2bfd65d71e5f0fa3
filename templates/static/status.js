// The status page. Plain ES modules, no build step; every file here is served as it is.
//
//   store.js       what the page knows: `subscribe(kind, listener)`, `current(kind)`; kinds: status, plan, history, connection
//   live.js        reads GET /status, by events, else by polling; publishes `status` and `connection`
//   background.js  reads GET /plan and GET /status/history; publishes `plan` and `history`
//   dom.js         changes the document in place: texts, keyed lists. Never innerHTML: names are data
//   format.js      sizes, counts, durations and times as people read them
//   gpus.js, models.js, peers.js, downloads.js, activity.js   the sections; each has a twin in app/page, which renders them without scripts
//   connect.js, pull.js, playground.js, logs.js, actions.js   what needs scripts; `.scripted` is hidden without them
//
// Sections subscribe to the store and patch the elements that templates/*.html have rendered. A row keeps its element
// (`data-key`) as long as what it stands for, so focus and selections survive updates. Addresses are relative: the page
// may be served below a path.

import { startActions } from "./actions.js";
import { startActivity } from "./activity.js";
import { startBackground } from "./background.js";
import { startConnect } from "./connect.js";
import { startConnection } from "./connection.js";
import { startDownloads } from "./downloads.js";
import { startGpus } from "./gpus.js";
import { startLive } from "./live.js";
import { startLogs } from "./logs.js";
import { startModels } from "./models.js";
import { startPeers } from "./peers.js";
import { startPlayground } from "./playground.js";
import { startPull } from "./pull.js";

document.documentElement.classList.add("js");
startConnection();
startGpus();
startModels();
startPeers();
startDownloads();
startActivity();
startConnect();
startPull();
startPlayground();
startLogs();
startActions();
startLive();
startBackground();
